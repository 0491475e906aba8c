"""The command `lipcert.soundness`: tries to refute certificates of a trained network."""
