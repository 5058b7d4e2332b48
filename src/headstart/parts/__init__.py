"""Parts that methods share: initialisations, ascents, losses."""
