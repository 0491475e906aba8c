"""Networks drawn over every supported layer, attacked where bounds are tightest: `make fuzz`."""
