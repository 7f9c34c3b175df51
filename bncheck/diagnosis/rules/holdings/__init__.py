"""What rules ask of a holding: the normalising layers of one checkpoint or model. No partner, no data."""
