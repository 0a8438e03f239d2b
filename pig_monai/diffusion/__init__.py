"""The method: noise schedule, timestep grids, solvers, the paired loop, and training."""
