"""What the stage `correct` checks, by subject."""
