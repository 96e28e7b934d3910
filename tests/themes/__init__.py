"""Host projects with themes, mixins, proxies of our models, and admin sites of their own."""
