-- Per day and variant: users exposed by then and on it, users active on it, what offers cost.
-- Every day from the start has a row, whether somebody came or not. Cost is added as an exact
-- decimal, so that the order in which Spark adds changes no bit.
WITH days AS (
    SELECT explode(sequence(:start, :as_of)) AS day
),

-- A handful of rows (days x variants), so that the join below on "by then" stays small.
joined AS (
    SELECT variant, first_day, count(*) AS num_users
    FROM exposed
    GROUP BY variant, first_day
),

measured AS (
    SELECT
        variant,
        day,
        count_if(active) AS num_active,
        sum(CAST(cost AS DECIMAL(30, 18))) AS cost
    FROM user_days
    WHERE day IS NOT NULL
    GROUP BY variant, day
),

present AS (
    SELECT
        days.day,
        joined.variant,
        sum(if(joined.first_day <= days.day, num_users, 0)) AS num_users,
        sum(if(joined.first_day = days.day, num_users, 0)) AS num_new
    FROM days
    CROSS JOIN joined
    GROUP BY days.day, joined.variant
)

SELECT
    :experiment AS experiment,
    present.day,
    present.variant,
    present.num_users,
    present.num_new,
    coalesce(measured.num_active, 0) AS num_active,
    if(:has_cost, CAST(coalesce(measured.cost, 0) AS DOUBLE), NULL) AS cost
FROM present
LEFT JOIN measured ON present.day = measured.day AND present.variant = measured.variant
ORDER BY present.day, present.variant
