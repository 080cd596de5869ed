"""Systems that move: their equations, shared by the worlds and by the family `dynamics`."""
