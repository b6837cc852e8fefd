-- Who exists since when, with the demographics known at that time; NULL is a category of its own.
--
-- A household registers on the day of its first purchase or redemption. `known_users` are those
-- that registered before the window. A household whose demographics land later gets a second row.
WITH seen AS (
    SELECT user_id, MIN(day) AS registered_on
    FROM (
        SELECT user_id, day FROM transactions
        UNION ALL
        SELECT user_id, day FROM coupon_redemptions
    ) AS facts
    WHERE day BETWEEN :first_day AND :last_day
    GROUP BY user_id
),
newcomers AS (
    SELECT s.user_id, s.registered_on
    FROM seen AS s
    LEFT JOIN known_users AS k ON k.user_id = s.user_id
    WHERE k.user_id IS NULL
),
registered AS (
    SELECT user_id, registered_on FROM known_users
    UNION ALL
    SELECT user_id, registered_on FROM newcomers
),
profiles AS (
    SELECT CAST(household_id AS STRING) AS user_id, demographics.*
    FROM demographics
),
changes AS (
    SELECT user_id, registered_on AS valid_from, registered_on FROM newcomers
    UNION
    SELECT r.user_id, p.landed_on AS valid_from, r.registered_on
    FROM registered AS r
    INNER JOIN profiles AS p ON p.user_id = r.user_id
    WHERE p.landed_on BETWEEN :first_day AND :last_day AND p.landed_on > r.registered_on
),
ranked AS (
    SELECT
        c.user_id,
        c.valid_from,
        c.registered_on,
        p.age,
        p.income,
        p.home_ownership,
        p.marital_status,
        p.household_size,
        p.household_comp,
        p.kids_count,
        ROW_NUMBER() OVER (
            PARTITION BY c.user_id, c.valid_from ORDER BY p.landed_on DESC
        ) AS place
    FROM changes AS c
    LEFT JOIN profiles AS p ON p.user_id = c.user_id AND p.landed_on <= c.valid_from
)
SELECT
    user_id,
    valid_from,
    registered_on,
    age,
    income,
    home_ownership,
    marital_status,
    household_size,
    household_comp,
    kids_count
FROM ranked
WHERE place = 1
