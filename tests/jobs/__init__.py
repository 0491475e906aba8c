"""Tests of `lipcert.jobs`."""
