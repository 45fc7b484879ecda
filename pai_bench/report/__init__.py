"""Reports: tables, figures and markdown from stored records. Runs nothing and knows nothing of torch."""
