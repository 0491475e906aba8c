"""The commands, one file each, and what they share; nothing that computes is imported before it is needed."""
