"""The configuration reference, written from the schema and from the comments of conf/ while the site is built."""

from __future__ import annotations
