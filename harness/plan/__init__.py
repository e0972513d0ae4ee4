"""Who is measured when, for how long, and what that can prove. Pure."""
