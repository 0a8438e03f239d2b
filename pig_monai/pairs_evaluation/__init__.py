"""Generated pairs against real slices: distances, neighbourhoods, masks, consistency, memorisation."""
