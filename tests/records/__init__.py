"""Tests of `lipcert.records`."""
