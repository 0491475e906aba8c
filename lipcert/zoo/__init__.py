"""Networks that come with lipcert: weights, a card of what is known of each, and a record of its certificates."""

from lipcert.zoo.cards import Card, read_card, weights_of
from lipcert.zoo.leaderboard import leaderboard

__all__ = ["Card", "leaderboard", "read_card", "weights_of"]
