"""The page with live numbers: reads snapshots, knows neither end."""
