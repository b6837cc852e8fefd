-- Per variant, sums over its users of what each did since exposure: all that a test needs, a
-- few numbers whatever the number of users. The user is the unit, not the user-day. Integers
-- and exact decimals only, so that the order in which Spark adds changes no bit.
WITH done AS (
    SELECT user_id, day, IDENTIFIER(:active) AS active, IDENTIFIER(:cost) AS cost
    FROM activity
    WHERE day BETWEEN :start AND :as_of
),

per_user AS (
    SELECT
        exposures.variant,
        exposures.user_id,
        date_diff(:as_of, exposures.exposed_on) + 1 AS num_days,
        count_if(done.active = 1) AS num_active_days,
        CAST(coalesce(sum(CAST(done.cost AS DECIMAL(18, 6))), 0) AS DECIMAL(18, 6)) AS cost
    FROM exposures
    LEFT JOIN done
        ON exposures.user_id = done.user_id AND exposures.exposed_on <= done.day
    WHERE exposures.experiment = :experiment AND exposures.exposed_on <= :as_of
    GROUP BY exposures.variant, exposures.user_id, exposures.exposed_on
)

SELECT
    variant,
    count(*) AS num_users,
    sum(num_days) AS num_days,
    sum(num_days * num_days) AS num_days_squared,
    sum(num_active_days) AS num_active_days,
    sum(num_active_days * num_active_days) AS num_active_days_squared,
    sum(num_active_days * num_days) AS num_active_days_times_days,
    sum(cost) AS cost,
    sum(cost * cost) AS cost_squared
FROM per_user
GROUP BY variant
