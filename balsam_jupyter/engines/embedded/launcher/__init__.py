"""The launcher: one pilot process for an allocation, and one small process for each slot."""
