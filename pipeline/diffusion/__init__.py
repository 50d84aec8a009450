"""The mathematics: schedules, one solver, guidance, embedding fits, masks. Pure functions of tensors."""
