"""How well maps lie on the persons, where shards hold masks of them."""
