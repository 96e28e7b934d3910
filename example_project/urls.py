"""The example's URLs: the admin, and OSVI's REST endpoints where the host wants them."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("api/osvi/", include("osvi_django.urls")),
]
