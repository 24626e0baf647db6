"""The process that runs hooks and transfers beside the launchers, and what starts it."""
