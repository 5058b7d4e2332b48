"""``python -m website``: the site, in ``site/``."""

from website.build import SITE, build

if __name__ == "__main__":
    build(SITE)
    print(f"the site: {SITE / 'index.html'}")
