"""What a host includes: ``path("api/osvi/", include("osvi_django.urls"))``."""

app_name = "osvi_django"

urlpatterns: list = []
