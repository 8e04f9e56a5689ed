"""Redis, which the replicas of a gateway share: sliding minutes, what is open at once, and pushes."""
