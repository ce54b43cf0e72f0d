"""The mathematics: schedules, the process, denoisers, losses, solvers, and the one sampling loop."""
