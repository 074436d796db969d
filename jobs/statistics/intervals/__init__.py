"""Bootstrap intervals over identities, and the weighted statistics that they are taken of."""
