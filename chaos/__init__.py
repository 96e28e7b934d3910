"""A campaign of faults: processes killed, databases stopped, answers lost; then the books."""
