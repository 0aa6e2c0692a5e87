"""What decides whether a session may stay: verdicts, limits, and what scripts share."""
