"""`make demo`: a bare VPS becomes a mail worker, and a campaign goes out through it."""
