-- What a user paid in since exposure; the largest in a thousand counts as the next.
-- winsorize: 0.999
SELECT user_id, sum(deposits) AS numerator
FROM user_days
GROUP BY user_id
