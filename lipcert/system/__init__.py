"""What every part may use and what knows no mathematics: files, memory, errors, settings, help."""
