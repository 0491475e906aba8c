"""Pictures of runs: each is drawn once for the page, whose style sheet colours it, and once a theme as PNG."""
