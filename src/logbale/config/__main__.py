"""Writes .env.example and docs/settings.md anew, in the checkout that is the current directory."""

from pathlib import Path

from logbale.config.docs import env_example, settings_page

if __name__ == "__main__":
    Path(".env.example").write_text(env_example(), encoding="utf-8")
    Path("docs/settings.md").write_text(settings_page(), encoding="utf-8")
