"""What has become of each recipient's mail, and the results that the database doesn't hold yet."""
