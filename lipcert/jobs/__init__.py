"""What the commands `certify`, `measure` and `soundness` do once their settings are composed."""
