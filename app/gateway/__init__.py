"""The life of a call: admission, retries, batches, parts, streams and settlement."""
