"""Tests of `lipcert.soundness`."""
