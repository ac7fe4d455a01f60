"""Features for re-identification, learnt through a matching layer and without one."""
