"""Long work as directories and child processes: kept, started in lanes, followed, stopped, resumed and found again."""
