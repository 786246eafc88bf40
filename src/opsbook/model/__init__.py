"""The frozen values that cross rooms, and the roles rooms play for one another. Knows only the ground."""
