"""The life of a call: routes to targets, retries, batches, streams, settlement."""
