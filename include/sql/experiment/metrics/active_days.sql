-- Active days per user since exposure.
SELECT user_id, count_if(active) AS numerator
FROM user_days
GROUP BY user_id
