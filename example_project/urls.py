"""The URLs of the example project: the admin, and the REST API at a path that the host chose."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("api/osvi/", include("osvi_django.urls")),
]
