"""What rules ask of a life without fitting anything: modes, moves, counts, jumps. No partner; silence unless sure."""
