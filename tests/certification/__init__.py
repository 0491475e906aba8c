"""Tests of `lipcert.certification`."""
