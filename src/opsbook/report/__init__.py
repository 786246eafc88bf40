"""What people see of a run: one view model, several renderings. Reads values only."""
