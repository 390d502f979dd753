//! What crosses between the ingestion core and the shards: bounded lock-free rings, nothing else.
