"""From a model to targets and keys: the route table, key pools, rate limits, cooldowns and the attempts of a call."""
