"""From a model to targets and keys: the route table, pools of keys, their limits and cooldowns."""
