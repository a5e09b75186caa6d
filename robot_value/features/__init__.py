"""What a frozen policy makes of every recorded frame, computed once beside the episodes: a critic trains on that."""
