"""From the settings of a sweep to its trials."""
