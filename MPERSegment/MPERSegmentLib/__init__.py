"""The panels of the module MPERSegment, one file a panel; what both modules share is in MPERLib."""
